//! Greedy choice.

/// The lowest index of the largest number.
pub fn largest(numbers: &[f32]) -> u32 {
    // Lane by lane, which the compiler turns into vectors.
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, number)| *lane = larger(*lane, *number));
    }
    let best = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    numbers.iter().position(|number| *number == best).unwrap_or_default() as u32
}
