//! Runs one story, or all, with a seed of choice: `backmesh-simulations --seed N --members M [--story NAME] [--runs N]`.

use backmesh_simulations::scenario::{self, Failure, Verdict};
use std::process::ExitCode;
use std::time::Instant;

type Story = fn(u64, usize) -> Result<Verdict, Failure>;

const STORIES: [(&str, Story); 11] = [
    ("join", scenario::join_through_one_seed),
    ("partition", scenario::partition_heals),
    ("charters", scenario::charters_settle),
    ("one-use", scenario::one_use_taken_twice),
    ("replay", scenario::old_records_change_nothing),
    ("refusals", |seed, _| scenario::refusals_are_told(seed)),
    ("founder", |seed, _| scenario::group_outlives_its_founder(seed)),
    ("removed-admin", |seed, _| scenario::removed_admin_has_no_power(seed)),
    ("copied", |seed, _| scenario::copied_machine_is_noticed(seed)),
    ("large", scenario::newcomer_learns_a_large_group),
    ("anything", scenario::anything_may_happen),
];

struct Wish {
    seed: u64,
    members: usize,
    runs: u64,
    story: Option<String>,
}

fn main() -> ExitCode {
    match wish(std::env::args().skip(1)) {
        Some(wish) => run(&wish),
        None => {
            let names: Vec<&str> = STORIES.iter().map(|(name, _)| *name).collect();
            eprintln!("usage: backmesh-simulations [--seed N] [--members M, 4 to 5000] [--runs N] [--story NAME]");
            eprintln!("stories: {}", names.join(", "));
            ExitCode::from(2)
        }
    }
}

fn wish(mut arguments: impl Iterator<Item = String>) -> Option<Wish> {
    let mut wish = Wish { seed: 1, members: 50, runs: 1, story: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--seed" => wish.seed = value.parse().ok()?,
            "--members" => wish.members = value.parse().ok().filter(|members| (4..=5000).contains(members))?,
            "--runs" => wish.runs = value.parse().ok()?,
            "--story" => wish.story = STORIES.iter().any(|(story, _)| *story == value).then_some(Some(value))?,
            _ => return None,
        }
    }
    Some(wish)
}

fn run(wish: &Wish) -> ExitCode {
    let mut failed = false;
    for (name, story) in STORIES.iter().filter(|(name, _)| wish.story.as_deref().is_none_or(|story| story == *name)) {
        for seed in wish.seed..wish.seed + wish.runs {
            let begun = Instant::now();
            let verdict = story(seed, wish.members);
            let took = begun.elapsed().as_secs_f32();
            match verdict {
                Ok(verdict) => println!("{name}: seed {seed}, {} members: {verdict} ({took:.1} s to simulate)", wish.members),
                Err(failure) => {
                    failed = true;
                    println!("{name}: seed {seed}, {} members: FAILED: {failure}", wish.members);
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
