//! What differs between operating systems, with one face. Nothing outside names a system call.

mod folder;
mod meta;
mod open;
mod owner;

pub(crate) use folder::{FileSystemKind, Names, file_system_kind, list_names};
pub(crate) use meta::{
    acl_group_bits, clear_flags_pinned, flags_of, holes_of, is_hole, is_nodump, is_not_supported, is_pinned, is_pinned_alike,
    list_xattrs, list_xattrs_at, remove_xattr, remove_xattr_at, set_flags, set_flags_pinned, set_xattr, set_xattr_at, xattr,
    xattr_at,
};
pub(crate) use open::{
    Handle, Opened, absolute, chmod, chmod_at, chown, chown_at, create_file, create_nameless, folder_at, is_abandoned,
    is_no_folder, is_replaced, is_writable, link, lock_held, make_device, make_fifo, make_folder, make_symlink, open_file_at,
    open_folder, open_target, path_bytes, read_exact_at, read_link, remove_file, remove_folder, rename, set_modified,
    set_modified_at, stat_absolute, stat_at, stat_of, sync_file_system, writable_at, write_at,
};
pub use owner::Owners;
pub(crate) use owner::is_root;
