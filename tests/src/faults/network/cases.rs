//! The cases, each a function that reads as what happens.

use super::fleet::ANYWHERE;
use super::{Case, Fleet, Setting, Took};
use crate::lan::Lan;
use crate::{Node, Signal, text, wait_for};
use anyhow::{Context, Result, ensure};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// All cases. The first gives the time that the others are held against.
pub const CASES: &[Case] = &[
    Case { name: "clean", what: "nothing goes wrong", run: clean },
    Case { name: "cut-seconds", what: "the owner's cable is out for 10 s, twice", run: cut_seconds },
    Case { name: "cut-minutes", what: "the owner's cable is out for 3 minutes (--short: 45 s)", run: cut_minutes },
    Case { name: "one-way", what: "what the owner sends to two holders arrives, their answers do not", run: one_way },
    Case { name: "loss-1", what: "1 of 100 packets is lost", run: |setting| loss(setting, 1) },
    Case { name: "loss-5", what: "5 of 100 packets are lost", run: |setting| loss(setting, 5) },
    Case { name: "loss-20", what: "20 of 100 packets are lost", run: |setting| loss(setting, 20) },
    Case { name: "delay", what: "200 ms to everyone and back", run: delay },
    Case { name: "slow-holders", what: "three holders have 1 Mbit/s", run: slow_holders },
    Case { name: "moving", what: "owner and holders get other addresses while they work", run: moving },
    Case { name: "all-new", what: "all start again, at once, on other addresses and ports", run: all_new },
    Case { name: "owner-asleep", what: "the owner's agent is stopped for 10 minutes (--short: 60 s)", run: owner_asleep },
    Case { name: "holder-asleep", what: "two holders are stopped for 10 minutes (--short: 60 s)", run: holder_asleep },
    Case { name: "rolling", what: "every holder starts again, one after the other", run: rolling },
    Case { name: "halves", what: "two halves part for 2 minutes (--short: 50 s), both go on", run: halves },
    Case { name: "nobody-named", what: "tokens without an address: mDNS; recovery with the phrase alone", run: nobody_named },
    Case { name: "udp-only", what: "no TCP reaches the owner: QUIC", run: udp_only },
];

fn clean(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn cut_seconds(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let cut = |fleet: &mut Fleet| {
        fleet.lan.isolate(0)?;
        sleep(Duration::from_secs(10));
        fleet.lan.heal()
    };
    fleet.back_up(cut)?;
    fleet.restore(cut)?;
    fleet.end()
}

fn cut_minutes(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let long = setting.seconds(180, 45);
    fleet.back_up(|fleet| {
        fleet.lan.isolate(0)?;
        let began = Instant::now();
        wait_for("the owner to say that it is alone", Duration::from_secs(60), || Ok(fleet.connected() == 0))?;
        fleet.note(format!("the cut was noticed after {:.0} s", began.elapsed().as_secs_f64()));
        sleep(long.saturating_sub(began.elapsed()));
        fleet.lan.heal()
    })?;
    fleet.restore(|fleet| {
        fleet.lan.isolate(0)?;
        sleep(Duration::from_secs(4));
        fleet.lan.heal()
    })?;
    fleet.end()
}

fn one_way(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    fleet.back_up(|fleet| (1..3).try_for_each(|holder| fleet.lan.cut_one_way(holder, 0)))?;
    fleet.restore(|fleet| (3..5).try_for_each(|holder| fleet.lan.cut_one_way(0, holder)))?;
    fleet.end()
}

fn loss(setting: &Setting, percent: u8) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    fleet.lan.lose(percent)?;
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn delay(setting: &Setting) -> Result<Took> {
    let mut lan = Lan::new(setting.hosts)?;
    lan.delay(0, 200)?;
    let mut fleet = Fleet::start_on(lan, setting)?;
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn slow_holders(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    (1..4).try_for_each(|holder| fleet.lan.rate(holder, 1))?;
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn moving(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    fleet.back_up(|fleet| {
        fleet.lan.move_host(0)?;
        sleep(Duration::from_secs(3));
        fleet.lan.move_host(1)?;
        fleet.lan.move_host(2)
    })?;
    fleet.restore(|fleet| {
        fleet.lan.move_host(0)?;
        fleet.lan.move_host(3)
    })?;
    fleet.end()
}

fn all_new(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    fleet.back_up(|_| Ok(()))?;
    fleet.each(|node| {
        node.stop();
        Ok(())
    })?;
    (0..fleet.group.nodes.len()).try_for_each(|host| fleet.lan.move_host(host))?;
    fleet.each(|node| node.start_on("/ip4/0.0.0.0/tcp/0"))?;
    let met = fleet.met(Duration::from_secs(240)).context("members whose addresses all changed do not meet again")?;
    fleet.note(format!("met on new addresses after {:.0} s", met.as_secs_f64()));
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn stopped(nodes: &[&Node], time: Duration) {
    let signal = |signal| {
        for pid in nodes.iter().filter_map(|node| node.pid()) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.map(|pid| rustix::process::kill_process(pid, signal));
        }
    };
    signal(Signal::STOP);
    sleep(time);
    signal(Signal::CONT);
}

fn owner_asleep(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let long = setting.seconds(600, 60);
    fleet.back_up(|fleet| {
        stopped(&[fleet.owner()], long);
        Ok(())
    })?;
    fleet.restore(|fleet| {
        stopped(&[fleet.owner()], setting.seconds(120, 60));
        Ok(())
    })?;
    fleet.end()
}

fn holder_asleep(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let long = setting.seconds(600, 60);
    let began = Instant::now();
    let mut said = false;
    fleet.back_up(|fleet| {
        stopped(&[&fleet.group.nodes[1], &fleet.group.nodes[2]], long);
        said = true;
        Ok(())
    })?;
    ensure!(said && began.elapsed() >= long, "nobody slept");
    fleet.restore(|fleet| {
        stopped(&[&fleet.group.nodes[3], &fleet.group.nodes[4]], setting.seconds(120, 45));
        Ok(())
    })?;
    fleet.end()
}

fn rolling(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let roll = |fleet: &mut Fleet| {
        fleet.group.nodes[1..].iter_mut().try_for_each(|node| {
            node.stop();
            node.start_on(ANYWHERE)
        })
    };
    fleet.back_up(roll)?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}

fn halves(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::start(setting)?;
    let middle = fleet.group.nodes.len() / 2;
    let other = fleet.group.folder.path().join("files of the other half");
    crate::tree::make_tree(&other, setting.seed + 1, setting.bytes / 4)?;
    fleet.group.nodes[middle].protect(&other);
    for a in 0..middle {
        for b in middle..fleet.group.nodes.len() {
            fleet.lan.cut(a, b)?;
        }
    }
    let long = setting.seconds(120, 50);
    let mut there = None;
    fleet.back_up(|fleet| {
        let began = Instant::now();
        let node = &fleet.group.nodes[middle];
        there = Some(node.spawn(&["--json", "backup"]));
        let parted = (middle - 1) as u64;
        let known = |node: &Node| node.status()["workgroup"]["connected"].as_u64();
        wait_for("both halves to notice", Duration::from_secs(60), || {
            Ok(known(fleet.owner()) == Some(parted) && known(node).is_some_and(|count| count < 2 * parted + 1))
        })?;
        fleet.note(format!("parted after {:.0} s", began.elapsed().as_secs_f64()));
        sleep(long.saturating_sub(began.elapsed()));
        fleet.lan.heal()?;
        let met = fleet.met(Duration::from_secs(400)).context("the halves do not meet again")?;
        fleet.note(format!("the halves met {:.0} s after the heal", met.as_secs_f64()));
        Ok(())
    })?;
    if let Some(mut there) = there {
        there.kill().ok();
        there.wait()?;
    }
    fleet.restore(|_| Ok(()))?;
    let node = &fleet.group.nodes[middle];
    node.run(&["--json", "backup"]).expect(0);
    let target = fleet.group.folder.path().join("restored there");
    node.run(&["--json", "restore", "latest", "--to", text(&target)]).expect(0);
    let differing = crate::tree::differences(&other, &target);
    ensure!(differing.is_empty(), "what came back in the other half differs: {differing:?}");
    fleet.end()
}

fn nobody_named(setting: &Setting) -> Result<Took> {
    let mut fleet = Fleet::blank(Lan::new(setting.hosts)?, setting)?;
    let token = fleet.token_without_address();
    fleet.join(0, &token)?;
    fleet.group.nodes[0].start_on(ANYWHERE)?;
    let began = Instant::now();
    fleet.join_rest(&token)?;
    fleet.begin()?;
    fleet.note(format!("all met {:.0} s after the first join", began.elapsed().as_secs_f64()));
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    // The owner's machine is lost; another one has the phrase, and no address.
    let phrase = fleet.group.phrase_file("host0");
    let mut stranger = fleet.group.blank("stranger");
    stranger.namespace = Some(fleet.lan.namespace(0));
    fleet.group.nodes[0].stop();
    let target = fleet.target();
    let began = Instant::now();
    stranger.run(&["--json", "recover", "--phrase-file", text(&phrase), "--to", text(&target)]).expect(0);
    fleet.note(format!("recovered with the phrase alone in {:.0} s", began.elapsed().as_secs_f64()));
    fleet.compare(&target)?;
    // Whoever switched it off is not found, and finds nobody.
    fleet.group.nodes[0].start_on(ANYWHERE)?;
    fleet.end()
}

fn udp_only(setting: &Setting) -> Result<Took> {
    let mut lan = Lan::new(setting.hosts)?;
    lan.drop_tcp(0)?;
    let mut fleet = Fleet::start_on(lan, setting)?;
    let peers = fleet.owner().peers();
    let by = |transport: &str| peers.iter().filter(|peer| peer["transport"] == transport).count();
    ensure!(by("quic") == peers.len() - 1 && by("tcp") == 0, "not all are connected over QUIC: {peers:?}");
    let others = fleet.group.nodes[1].peers();
    ensure!(others.iter().filter(|peer| peer["transport"] == "tcp").count() == peers.len() - 2, "the others use TCP: {others:?}");
    fleet.back_up(|_| Ok(()))?;
    fleet.restore(|_| Ok(()))?;
    fleet.end()
}
