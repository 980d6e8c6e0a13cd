//! Videos: stream facts, then timestamps, then frames by index.
