//! The collector: takes batches, keeps the ledger, folds sums, compares them with rule packs, opens cases.
//!
//! [`app::App`] is the running collector; [`ingest`] is where batches come in, [`view`] where pages, API, metrics
//! and rules get the same numbers from, [`judge`] where findings are raised. The command line is in [`command`].
//!
//! Deliberately absent: a way to edit a number. Corrections are new dated records.

pub mod alarm;
pub mod api;
pub mod app;
pub mod backup;
pub mod casefile;
pub mod casesteps;
pub mod command;
pub mod config;
mod declared;
pub mod demo;
pub mod drafts;
pub mod enrol;
pub mod evaluate;
mod history;
pub mod import;
pub mod ingest;
pub mod integrity;
pub mod judge;
pub mod listen;
pub mod metrics;
pub mod opening;
pub mod operator;
pub mod packs;
pub mod pages;
pub mod parties;
pub mod pdf;
mod progress;
pub mod proof;
pub mod prune;
pub mod questionnaire;
pub mod random;
mod remarks;
pub mod restore;
pub mod rotation;
pub mod tls;
pub mod tree;
pub mod verifying;
pub mod view;
pub mod witness;
