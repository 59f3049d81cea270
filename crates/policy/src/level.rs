//! Levels: how many shards a pack is cut into for a group of a given size, and what that promises to people.

use backmesh_format::charter::Level;
use backmesh_format::stripe::Purpose;
use std::fmt;

/// How a pack is cut: any `k` of its `n` shards rebuild it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// How many shards rebuild a pack, at least 1.
    pub k: u8,
    /// How many shards there are, at least `k`, each on another machine.
    pub n: u8,
}

impl Shape {
    /// How many holders may be lost at once.
    pub const fn survives(self) -> usize {
        self.n.saturating_sub(self.k) as usize
    }

    /// How many bytes are stored for a thousand bytes of packs.
    pub const fn space_permille(self) -> u32 {
        self.n as u32 * 1000 / self.k as u32
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-of-{}", self.k, self.n)
    }
}

const fn of(k: u8, n: u8) -> Shape {
    Shape { k, n }
}

/// The smallest group that each row is for, and its shapes from economy to paranoid. The row for ten begins at nine: its eight
/// shards fit on the eight others. In every row n is below the number of members, because an owner never holds its own shards.
const TABLE: [(usize, [Shape; 4]); 7] = [
    (2, [of(1, 1), of(1, 1), of(1, 1), of(1, 1)]),
    (3, [of(1, 2), of(1, 2), of(1, 2), of(1, 2)]),
    (5, [of(3, 4), of(2, 4), of(1, 3), of(1, 4)]),
    (9, [of(5, 8), of(4, 8), of(3, 8), of(2, 8)]),
    (30, [of(12, 20), of(10, 20), of(10, 23), of(10, 26)]),
    (100, [of(16, 24), of(16, 28), of(16, 32), of(16, 40)]),
    (1000, [of(20, 30), of(20, 34), of(20, 40), of(20, 52)]),
];

/// The shape for a group of `members`, the owner included; none for one that is alone.
///
/// Members that cannot hold (no space offered, seeds, a second node on one machine) do not count: see
/// [`crate::placement::members_that_count`].
pub fn shape(level: Level, members: usize) -> Option<Shape> {
    let (_, shapes) = TABLE.iter().rev().find(|(from, _)| members >= *from)?;
    Some(shapes[level as usize - 1])
}

/// The level for a purpose: catalogue and index lie one level safer than the data, for without them the data is a heap.
pub const fn level_for(purpose: Purpose, level: Level) -> Level {
    match purpose {
        Purpose::Data => level,
        Purpose::Catalogue => level.safer(),
    }
}

/// How many shards must be durable on distinct holders before a stripe counts as stored: k and half of the spare ones, rounded
/// up. Machines are off at night; the owner keeps the pack until all n are delivered.
pub const fn enough(shape: Shape) -> usize {
    shape.k as usize + shape.survives().div_ceil(2)
}

/// What a shape promises in a group of a given size, in parts that people can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// The shape.
    pub shape: Shape,
    /// How many holders may be lost at once, beside the owner's own machine.
    pub survives: usize,
    /// What else has to be said.
    pub warnings: Vec<Warning>,
}

/// What people are told beside the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// There is one copy beside the owner's own files.
    OneCopy,
    /// One holder may be lost and the next loss is fatal, although more than one is needed to restore.
    OneSpare,
    /// The group is too small for levels to differ.
    LevelsAlike {
        /// From how many members on they do.
        from: usize,
    },
}

/// What `shape` promises in a group of `members`, the owner included.
pub fn promise(shape: Shape, members: usize) -> Promise {
    let mut warnings = Vec::new();
    if shape.survives() == 0 {
        warnings.push(Warning::OneCopy);
    }
    if shape.survives() == 1 && shape.k > 1 {
        warnings.push(Warning::OneSpare);
    }
    if members < LEVELS_DIFFER_FROM {
        warnings.push(Warning::LevelsAlike { from: LEVELS_DIFFER_FROM });
    }
    Promise { shape, survives: shape.survives(), warnings }
}

const LEVELS_DIFFER_FROM: usize = 5;

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.shape.n;
        match self.survives {
            0 if n == 1 => f.write_str("survives the loss of this machine, or of the one that holds its copy, not of both"),
            0 => write!(f, "survives the loss of this machine while all of the {n} that hold its shards are there"),
            1 => write!(f, "survives the loss of this machine and of any 1 of the {n} that hold its shards"),
            lost => write!(f, "survives the loss of this machine and of any {lost} of the {n} that hold its shards"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneCopy => f.write_str("there is only one copy: add a third machine to survive the loss of two"),
            Self::OneSpare => f.write_str("there is one spare shard only: the loss of two holders at once loses files"),
            Self::LevelsAlike { from } => {
                write!(f, "all levels are alike in so small a group: they differ from {from} machines on")
            }
        }
    }
}

/// How likely at least k holders are there when each is there with probability `uptime` (0 to 1), independently of the others.
/// Durability is another matter: a machine that is switched off has lost nothing.
pub fn availability(shape: Shape, uptime: f64) -> f64 {
    let uptime = uptime.clamp(0.0, 1.0);
    // chances[i]: the probability that i of the holders looked at so far are there.
    let mut chances = vec![0.0; usize::from(shape.n) + 1];
    chances[0] = 1.0;
    for holder in 0..usize::from(shape.n) {
        for there in (0..=holder).rev() {
            chances[there + 1] += chances[there] * uptime;
            chances[there] *= 1.0 - uptime;
        }
    }
    chances[usize::from(shape.k)..].iter().sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_published_one() {
        let rows = [
            (2, ["1-of-1", "1-of-1", "1-of-1", "1-of-1"]),
            (3, ["1-of-2", "1-of-2", "1-of-2", "1-of-2"]),
            (5, ["3-of-4", "2-of-4", "1-of-3", "1-of-4"]),
            (10, ["5-of-8", "4-of-8", "3-of-8", "2-of-8"]),
            (30, ["12-of-20", "10-of-20", "10-of-23", "10-of-26"]),
            (100, ["16-of-24", "16-of-28", "16-of-32", "16-of-40"]),
            (1000, ["20-of-30", "20-of-34", "20-of-40", "20-of-52"]),
        ];
        for (members, shapes) in rows {
            for (level, expected) in Level::ALL.into_iter().zip(shapes) {
                assert_eq!(shape(level, members).unwrap().to_string(), expected, "{members} members, {}", level.name());
            }
        }
    }

    #[test]
    fn sizes_between_rows_use_the_row_below_and_nine_use_the_row_for_ten() {
        let same = [(4, 3), (6, 5), (7, 5), (8, 5), (9, 10), (11, 10), (29, 10), (31, 30), (99, 30), (999, 100), (5000, 1000)];
        for (members, row) in same {
            for level in Level::ALL {
                assert_eq!(shape(level, members), shape(level, row), "{members} members");
            }
        }
    }

    #[test]
    fn nobody_backs_up_alone() {
        for level in Level::ALL {
            assert_eq!(shape(level, 0), None);
            assert_eq!(shape(level, 1), None);
        }
    }

    #[test]
    fn shards_always_fit_on_the_others_and_safer_levels_survive_no_fewer() {
        for members in 2..=6000 {
            let shapes = Level::ALL.map(|level| shape(level, members).unwrap());
            for shape in shapes {
                assert!(1 <= shape.k && shape.k <= shape.n && usize::from(shape.n) < members, "{shape} for {members}");
                assert!(usize::from(shape.n) <= backmesh_format::limits::SHARDS_MAX);
            }
            assert!(shapes.is_sorted_by_key(|shape| shape.survives()), "{members} members: {shapes:?}");
        }
    }

    #[test]
    fn larger_groups_survive_no_fewer() {
        for level in Level::ALL {
            assert!((2..=6000).map(|members| shape(level, members).unwrap().survives()).is_sorted());
        }
    }

    #[test]
    fn enough_is_k_and_half_of_the_spare() {
        for (shape, expected) in [
            (of(1, 1), 1),
            (of(1, 2), 2),
            (of(1, 3), 2),
            (of(3, 4), 4),
            (of(2, 4), 3),
            (of(4, 8), 6),
            (of(5, 8), 7),
            (of(20, 52), 36),
        ] {
            assert_eq!(enough(shape), expected, "{shape}");
        }
    }

    fn check_promise(members: usize, level: Level, text: &str, warnings: &[Warning]) {
        let promise = promise(shape(level, members).unwrap(), members);
        assert_eq!(promise.to_string(), text);
        assert_eq!(promise.warnings, warnings);
    }

    #[test]
    fn small_groups_say_what_they_survive() {
        let alike = Warning::LevelsAlike { from: 5 };
        let two = "survives the loss of this machine, or of the one that holds its copy, not of both";
        let three = "survives the loss of this machine and of any 1 of the 2 that hold its shards";
        check_promise(2, Level::Standard, two, &[Warning::OneCopy, alike]);
        check_promise(3, Level::Standard, three, &[alike]);
        check_promise(4, Level::Paranoid, three, &[alike]);
    }

    #[test]
    fn five_members_at_economy_are_warned() {
        let text = "survives the loss of this machine and of any 1 of the 4 that hold its shards";
        check_promise(5, Level::Economy, text, &[Warning::OneSpare]);
        check_promise(5, Level::Standard, "survives the loss of this machine and of any 2 of the 4 that hold its shards", &[]);
        check_promise(10, Level::Standard, "survives the loss of this machine and of any 4 of the 8 that hold its shards", &[]);
    }

    #[test]
    fn catalogues_lie_one_level_safer() {
        assert_eq!(level_for(Purpose::Data, Level::Standard), Level::Standard);
        assert_eq!(level_for(Purpose::Catalogue, Level::Standard), Level::High);
        assert_eq!(level_for(Purpose::Catalogue, Level::Paranoid), Level::Paranoid);
    }

    #[test]
    fn availability_is_the_binomial_tail() {
        for (shape, uptime, expected) in
            [(of(8, 16), 0.5, 0.5982), (of(1, 3), 0.5, 0.875), (of(1, 1), 0.3, 0.3), (of(4, 8), 1.0, 1.0), (of(4, 8), 0.0, 0.0)]
        {
            let found = availability(shape, uptime);
            assert!((found - expected).abs() < 1e-4, "{shape} at {uptime}: {found}");
        }
    }
}
