//! What every pod runtime promises.
