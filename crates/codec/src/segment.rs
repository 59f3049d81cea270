//! Index segments: where chunks lie, in pages sorted by id.
