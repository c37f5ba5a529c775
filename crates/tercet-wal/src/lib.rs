//! A write-ahead log that tells a torn tail from corruption.
