//! Keys of packs, sealed to their recipients, and the sealed bodies of heads.
