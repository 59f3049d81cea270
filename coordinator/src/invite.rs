//! `backmesh-admin invite`.

use crate::Done;
use crate::create::{check_name, now, random_bytes};
use crate::duration::Validity;
use crate::key::AdminFiles;
use backmesh_control::{Event, InviteResult, SeedError, Time, parse_seed, seed_text};
use backmesh_format::keys::KeyPair;
use backmesh_format::membership::{Invitation, Role, Seed};
use backmesh_format::token::Token;
use backmesh_format::{Signed, UnixMillis, limits};
use clap::Args;
use std::path::Path;

/// Make a token with which machines can join; no admin need be at hand when they do
///
/// Whoever has the token can join: hand it over as you would a key. The token alone is written to standard output.
#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// How many nodes may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    uses: u32,
    /// How long it is valid: 12h, 7d, 2w, or never
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    expires: Validity,
    /// The site of those who join with it: shards are spread over sites
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Where members may be met, such as 192.0.2.1 or /ip4/192.0.2.1/tcp/47770/p2p/12D3KooW..; may be repeated
    #[arg(long = "seed", value_name = "ADDR", value_parser = seed)]
    seeds: Vec<Seed>,
}

impl Invite {
    pub(crate) fn run(self, key: Option<&Path>) -> anyhow::Result<Done> {
        if let Some(site) = &self.site {
            check_name(site)?;
        }
        if self.seeds.len() > limits::ADDRESSES_MAX {
            anyhow::bail!("a token names at most {} addresses", limits::ADDRESSES_MAX);
        }
        let files = AdminFiles::find(key)?;
        let charter = files.read_charter()?;
        let admin = files.read_key(&charter)?;
        let secret = random_bytes();
        let invitation = self.invitation(charter.workgroup_id(), &KeyPair::from_secret(&secret), now());
        let (name, workgroup) = (charter.name.clone(), charter.workgroup_id().to_string());
        let token = Token { charter, invitation: Signed::new(invitation, &[&admin]), secret: *secret };
        let text = token.to_text().to_string();
        let invitation = token.invitation.clone().into_inner();
        let expires_at = (invitation.expires_at != 0).then_some(Time(invitation.expires_at));
        Ok(Done {
            output: format!("{text}\n"),
            explanation: explanation(&name, &invitation, expires_at),
            event: Event::result(InviteResult {
                token: text,
                workgroup,
                name,
                uses: invitation.uses,
                expires_at,
                site: invitation.site,
                seeds: invitation.seeds.iter().map(seed_text).collect(),
            }),
        })
    }

    fn invitation(self, workgroup: backmesh_format::WorkgroupId, key: &KeyPair, now: UnixMillis) -> Invitation {
        let until = |duration: std::time::Duration| now.saturating_add(duration.as_millis() as UnixMillis);
        Invitation {
            workgroup,
            key: key.public(),
            uses: self.uses,
            expires_at: self.expires.0.map_or(0, until),
            role: Role::Member,
            site: self.site.unwrap_or_default(),
            seeds: self.seeds,
            written_at: now,
        }
    }
}

fn explanation(name: &str, invitation: &Invitation, expires_at: Option<Time>) -> String {
    let uses = if invitation.uses == 1 { "one node".to_owned() } else { format!("{} nodes", invitation.uses) };
    let end = expires_at.map_or_else(|| "without an end".to_owned(), |time| format!("until {time}"));
    let seeds = if invitation.seeds.is_empty() {
        "It names no member's address. That is right for the first member only: the others need --seed to meet it.\n"
    } else {
        ""
    };
    format!(
        "A token for {uses} to join \"{name}\", {end}. Whoever has it can use it.\n{seeds}On the new machine: backmesh join TOKEN\n"
    )
}

fn seed(text: &str) -> Result<Seed, SeedError> {
    parse_seed(text)
}
