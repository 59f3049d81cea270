#!/usr/bin/env python3
"""A line with delay between two network namespaces, for kernels without netem.

usage: delay.py NAMESPACE_A NAMESPACE_B DEVICE DELAY_MS

Makes a TAP device of that name in each namespace and carries frames between them, each way after the delay. Prints "ready" once both
are there, and ends when its standard input does.
"""
import collections, ctypes, fcntl, os, select, struct, sys, time

CLONE_NEWNET, TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x40000000, 0x400454CA, 0x0002, 0x1000


def tap(libc, namespace, name):
    descriptor = os.open("/run/netns/" + namespace, os.O_RDONLY)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main():
    namespace_a, namespace_b, name, delay = sys.argv[1:5]
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = tap(libc, namespace_a, name), tap(libc, namespace_b, name)
    other, due, delay = {a: b, b: a}, collections.deque(), float(delay) / 1000
    print("ready", flush=True)
    while True:
        while due and due[0][0] <= time.monotonic():
            _, device, frame = due.popleft()
            try:
                os.write(device, frame)
            except OSError:
                pass  # the far end is full or gone: a line loses frames, too
        wait = max(0, due[0][0] - time.monotonic()) if due else None
        readable = select.select([a, b, sys.stdin], [], [], wait)[0]
        if sys.stdin in readable:
            return
        for device in readable:
            for _ in range(64):
                try:
                    frame = os.read(device, 65535)
                except BlockingIOError:
                    break
                due.append((time.monotonic() + delay, other[device], frame))


main()
