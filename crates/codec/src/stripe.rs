//! Reed-Solomon shards of a pack, and the signed record over them.
