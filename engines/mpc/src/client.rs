//! The client: shares its input to the two parties and alone learns the output.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::RoleError;
use crate::net::{Kind, Link, Net, Traffic, What, both};
use crate::request::{Request, SharedInput, words_of};
use crate::workload::ProgramShape;

/// A client in session with both parties.
pub(crate) struct Client {
    net: Arc<Net>,
    parties: [Link; 2],
    shapes: Vec<ProgramShape>,
    limit: Duration,
    next: u64,
}

impl Client {
    pub(crate) fn new(net: Arc<Net>, parties: [Link; 2], shapes: Vec<ProgramShape>, limit: Duration) -> Self {
        Self { net, parties, shapes, limit, next: 0 }
    }

    /// One inference: a shared input in, the output words over Z_2^64 back.
    pub(crate) fn infer(&mut self, program: u32, input: SharedInput) -> Result<Vec<u64>, RoleError> {
        let request = Request { number: self.next, program };
        let unfit = |what: String| RoleError::Request { request: request.number, what };
        let shape = self.shapes.get(program as usize).ok_or_else(|| unfit(format!("program {program} does not exist")))?;
        let (due, given) = ((shape.input_words * 8, shape.public_bytes), (input.rest.len(), input.public.len()));
        if given != due {
            return Err(unfit(format!("an input and a public part of {given:?} bytes where the program takes {due:?}")));
        }
        let shares = [&input.seed[..], &input.rest[..]].map(|share| Zeroizing::new([&input.public[..], share].concat()));
        let bytes = shape.output_words * 8;
        self.next += 1;
        let limit = self.limit;
        let [link0, link1] = &mut self.parties;
        let asked = both(ask(link0, request, &shares[0], bytes, limit), ask(link1, request, &shares[1], bytes, limit));
        let (a, b) = self.net.block_on(asked).map_err(first_cause)?;
        Ok(words_of(&a).zip(words_of(&b)).map(|(a, b)| a.wrapping_add(b)).collect())
    }

    /// Has both parties fetch the material of the next request, so that the request itself is online work only.
    pub(crate) fn prepare(&mut self, program: u32) -> Result<(), RoleError> {
        let (request, limit) = (Request { number: self.next, program }, self.limit);
        let [link0, link1] = &mut self.parties;
        self.net.block_on(both(wish(link0, request, limit), wish(link1, request, limit))).map(drop).map_err(first_cause)
    }

    /// What its links have carried.
    pub(crate) fn traffic(&self) -> [Traffic; 2] {
        self.parties.each_ref().map(Link::traffic)
    }

    /// Ends the session in good order.
    pub(crate) fn finish(mut self) -> Result<(), RoleError> {
        for link in &mut self.parties {
            self.net.block_on(async {
                link.send(Kind::End, &[], What::End).await?;
                link.close().await;
                Ok::<_, RoleError>(())
            })?;
        }
        Ok(())
    }
}

/// A party that only lost its peer tells less than the one that failed.
fn first_cause(mut failures: Vec<RoleError>) -> RoleError {
    let at =
        failures.iter().position(|e| !e.is_secondary()).or_else(|| failures.iter().position(RoleError::is_reasoned)).unwrap_or(0);
    failures.swap_remove(at)
}

async fn wish(link: &mut Link, request: Request, limit: Duration) -> Result<(), RoleError> {
    let what = What::Ready { request: request.number };
    link.send(Kind::Prepare, &request.encode(), what).await?;
    Ok(link.recv_within(Kind::Ready, 0, what, limit).await.map(drop)?)
}

async fn ask(
    link: &mut Link,
    request: Request,
    share: &[u8],
    output: usize,
    limit: Duration,
) -> Result<Zeroizing<Vec<u8>>, RoleError> {
    let number = request.number;
    link.send(Kind::Request, &request.encode(), What::Input { request: number }).await?;
    link.send(Kind::Input, share, What::Input { request: number }).await?;
    Ok(Zeroizing::new(link.recv_within(Kind::Output, output, What::Output { request: number }, limit).await?))
}
