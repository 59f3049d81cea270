//! Names of users and groups, asked from the system once each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use backmesh_format::limits;
use nix::unistd::{Gid, Group, Uid, User};

/// Remembers which numbers the system's users and groups have, directory services included.
#[derive(Debug, Default)]
pub struct Owners {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    uids: HashMap<String, Option<u32>>,
    gids: HashMap<String, Option<u32>>,
}

impl Owners {
    /// The names of a user and a group, empty where the system knows none.
    pub fn names(&self, uid: u32, gid: u32) -> (String, String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let user = known.users.entry(uid).or_insert_with(|| {
            User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(String::new, |user| bounded(user.name))
        });
        let user = user.clone();
        let group = known.groups.entry(gid).or_insert_with(|| {
            Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(String::new, |group| bounded(group.name))
        });
        (user, group.clone())
    }

    /// The number that a user of this name has here.
    pub fn uid(&self, name: &str) -> Option<u32> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uid) = known.uids.get(name) {
            return *uid;
        }
        let uid = User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        known.uids.insert(name.to_owned(), uid);
        uid
    }

    /// The number that a group of this name has here.
    pub fn gid(&self, name: &str) -> Option<u32> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gid) = known.gids.get(name) {
            return *gid;
        }
        let gid = Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
        known.gids.insert(name.to_owned(), gid);
        gid
    }
}

/// A name that the catalogue would refuse is no name.
fn bounded(name: String) -> String {
    if name.len() <= limits::NAME_BYTES_MAX { name } else { String::new() }
}

/// Whether we may give files away.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
