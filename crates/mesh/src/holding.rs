//! What a holder agrees to.
