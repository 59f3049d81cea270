//! Directory pages: a search tree of entries sorted by path.
