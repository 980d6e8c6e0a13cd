//! Which records of a set are used: LLaVA's sampling strategies.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

use crate::data::random::{below, generator, shuffle};
use crate::{Error, Result};

/// Millionths of a percent, of which a whole has 10⁸.
const WHOLE: u64 = 100_000_000;

/// A sampling strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampling {
    /// Every record.
    #[default]
    All,
    /// The first so many.
    First(Share),
    /// The last so many.
    End(Share),
    /// So many, chosen by the mixture's seed, in the order of the file.
    Random(Share),
}

/// How many of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A number; all where there are fewer.
    Count(u64),
    /// Millionths of a percent, rounded up to whole records as in LLaVA.
    Percent(u64),
}

/// The records selected: a run of them, or some in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    Run { start: u32, len: u32 },
    Some(Vec<u32>),
}

impl Share {
    /// So many of `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count.min(total),
            Self::Percent(share) => {
                let records = (u128::from(total) * u128::from(share)).div_ceil(u128::from(WHOLE));
                u64::try_from(records).unwrap_or(u64::MAX).min(total)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShareForms)
    }
}

/// A number, or a text with `%`.
struct ShareForms;

impl Visitor<'_> for ShareForms {
    type Value = Share;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of samples above 0, or a share such as 2%")
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Share, E> {
        self.visit_str(&count.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Share, E> {
        parse_share(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

impl Sampling {
    /// The records used of `total`. A cap lowers the number that the strategy asks for; `all` with a cap is `random`.
    pub(crate) fn select(self, total: u32, cap: Option<u64>, seed: u64, entry: u64) -> Selection {
        let share = match self {
            Self::All => Share::Percent(WHOLE),
            Self::First(share) | Self::End(share) | Self::Random(share) => share,
        };
        let wanted = share.of(total.into()).min(cap.unwrap_or(u64::MAX));
        let len = u32::try_from(wanted).unwrap_or(total);
        match self {
            Self::End(_) => Selection::Run { start: total - len, len },
            Self::All | Self::Random(_) if len < total => Selection::Some(choose(total, len, seed, entry)),
            _ => Selection::Run { start: 0, len },
        }
    }
}

/// `len` of `total` numbers, every choice as likely, ascending (Floyd's method would need a set; a list of all is as small
/// as the index of the file).
fn choose(total: u32, len: u32, seed: u64, entry: u64) -> Vec<u32> {
    let mut rng = generator(seed, "sampling", &[entry, total.into()]);
    let mut records: Vec<u32> = (0..total).collect();
    for place in 0..len as usize {
        let left = u64::from(total) - place as u64;
        records.swap(place, place + below(&mut rng, left) as usize);
    }
    records.truncate(len as usize);
    records.sort_unstable();
    records.shrink_to_fit();
    records
}

impl Selection {
    /// Two parts of the selection: what is held out, a share chosen by a seed, or the rest.
    pub(crate) fn part(&self, share: Share, held: bool, seed: u64, entry: u64) -> Self {
        let all = self.len();
        let count = u32::try_from(all).unwrap_or(u32::MAX);
        let wanted = u32::try_from(share.of(count.into())).unwrap_or(count);
        let mut rng = generator(seed, "held out", &[entry]);
        let mut order: Vec<u32> = (0..count).collect();
        shuffle(&mut rng, &mut order);
        let (out, rest) = order.split_at(wanted as usize);
        let mut places = if held { out } else { rest }.to_vec();
        places.sort_unstable();
        Self::Some(places.iter().map(|place| self.record(*place as usize) as u32).collect())
    }

    /// Records selected.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Run { len, .. } => *len as usize,
            Self::Some(records) => records.len(),
        }
    }

    /// The record that is the `index`-th selected.
    pub(crate) fn record(&self, index: usize) -> usize {
        match self {
            Self::Run { start, .. } => *start as usize + index,
            Self::Some(records) => records[index] as usize,
        }
    }

    /// How many of the selected come before `record`.
    pub(crate) fn before(&self, record: usize) -> usize {
        match self {
            Self::Run { start, len } => record.saturating_sub(*start as usize).min(*len as usize),
            Self::Some(records) => records.partition_point(|selected| (*selected as usize) < record),
        }
    }
}

impl FromStr for Sampling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            Error::input(format!("sampling: expected all, or first, end or random with :N or :P%, found {shown:?}"))
        };
        let Some((which, share)) = text.split_once(':') else {
            return if text == "all" { Ok(Self::All) } else { Err(wrong()) };
        };
        let share = parse_share(share.trim()).ok_or_else(wrong)?;
        match which.trim() {
            "first" => Ok(Self::First(share)),
            "end" => Ok(Self::End(share)),
            "random" => Ok(Self::Random(share)),
            _ => Err(wrong()),
        }
    }
}

/// `1000`, `10%` or `0.5%`: above 0, at most 100 %, at most six decimals.
fn parse_share(text: &str) -> Option<Share> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().ok().filter(|count| *count > 0 && digits(text)).map(Share::Count);
    };
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, ""));
    if !digits(whole) || !digits(decimals) || whole.is_empty() || decimals.len() > 6 {
        return None;
    }
    let millionths: u64 = format!("{decimals:0<6}").parse().ok()?;
    let share = whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(millionths)?;
    (1..=WHOLE).contains(&share).then_some(Share::Percent(share))
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, share) = match self {
            Self::All => return f.write_str("all"),
            Self::First(share) => ("first", share),
            Self::End(share) => ("end", share),
            Self::Random(share) => ("random", share),
        };
        match share {
            Share::Count(count) => write!(f, "{name}:{count}"),
            Share::Percent(share) => write!(f, "{name}:{}%", *share as f64 / 1e6),
        }
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(strategy: &str, total: u32, cap: Option<u64>) -> Vec<usize> {
        let selection = strategy.parse::<Sampling>().unwrap().select(total, cap, 1, 0);
        (0..selection.len()).map(|index| selection.record(index)).collect()
    }

    #[test]
    fn what_is_held_out_and_the_rest_are_all_and_disjoint() {
        for selection in [Selection::Run { start: 3, len: 10 }, Selection::Some(vec![1, 4, 5, 9, 30])] {
            let list = |selection: &Selection| (0..selection.len()).map(|i| selection.record(i)).collect::<Vec<_>>();
            let part = |held, seed| list(&selection.part(Share::Percent(WHOLE / 5), held, seed, 0));
            let mut both = [part(true, 1), part(false, 1)].concat();
            assert!(part(true, 1).len() == selection.len().div_ceil(5) && part(true, 1) != part(true, 2));
            both.sort_unstable();
            assert_eq!(both, list(&selection));
        }
    }

    #[test]
    fn first_and_end_take_runs_and_percentages_round_up() {
        assert_eq!(selected("all", 3, None), [0, 1, 2]);
        assert_eq!(selected("first:2", 5, None), [0, 1]);
        assert_eq!(selected("end:2", 5, None), [3, 4]);
        assert_eq!(selected("first:50%", 5, None), [0, 1, 2]);
        assert_eq!(selected("end:0.1%", 5, None), [4]);
        assert_eq!(selected("first:9", 5, None), [0, 1, 2, 3, 4]);
        assert_eq!(selected("end:100%", 2, None), [0, 1]);
    }

    #[test]
    fn percentages_are_exact() {
        for (text, total, count) in
            [("10%", 30, 3), ("0.000001%", 100_000_000, 1), ("33.3%", 1000, 333), ("70%", 10, 7)]
        {
            assert_eq!(parse_share(text).unwrap().of(total), count, "{text} of {total}");
        }
    }

    #[test]
    fn a_random_choice_is_ascending_repeatable_and_even() {
        let choice = selected("random:40%", 100, None);
        assert_eq!((choice.len(), choice.clone()), (40, selected("random:40", 100, None)));
        assert!(choice.is_sorted_by(|a, b| a < b));
        let mut times = [0; 10];
        for seed in 0..2000 {
            for record in choose(10, 3, seed, 0) {
                times[record as usize] += 1;
            }
        }
        // 600 expected, with a standard deviation of 20.
        assert!(times.iter().all(|count| (500..700).contains(count)), "{times:?}");
    }

    #[test]
    fn a_cap_lowers_what_a_strategy_takes() {
        assert_eq!(selected("first:4", 5, Some(2)), [0, 1]);
        assert_eq!(selected("end:4", 5, Some(2)), [3, 4]);
        assert_eq!(selected("all", 5, Some(9)), [0, 1, 2, 3, 4]);
        assert_eq!(selected("all", 50, Some(20)), selected("random:20", 50, None));
    }

    #[test]
    fn places_in_the_selection_are_found_from_records() {
        for selection in [Selection::Run { start: 3, len: 4 }, Selection::Some(vec![3, 5, 9, 10])] {
            for index in 0..4 {
                assert_eq!(selection.before(selection.record(index)), index);
            }
            assert_eq!((selection.before(0), selection.before(11)), (0, 4));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "some",
            "first",
            "first:",
            "first:0",
            "first:-1",
            "first:101%",
            "end:0%",
            "random:1e3",
            "random:%",
            "first:1.2345678%",
            "middle:3",
            "first:99999999999999999999",
            "end:184467440737096%",
            "first:+5%",
        ] {
            assert!(text.parse::<Sampling>().is_err(), "{text}");
        }
    }
}
