//! Frames sealed into packs of a few sizes.
