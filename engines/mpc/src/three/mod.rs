//! Three online servers and no dealer: what a server does from its links to the last request.
//!
//! Every two servers draw a secret for the session when it begins; the seeds of an inference are derived from it and from the request's number, which
//! counts up within the session and is refused otherwise. Nothing outlives the session, so there is no ledger.

mod load;
mod server;

pub(crate) use load::{Loaded, load};
pub(crate) use server::{BEGIN, TRANSCRIPT, ThreeLinks, ThreeServer, ThreeSetup};
