//! The client: shares its input to two or three parties and alone learns the output.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::RoleError;
use crate::net::{Kind, Link, Net, Traffic, What, both};
use crate::request::{Request, SharedInput, words_of};
use crate::workload::ProgramShape;

/// A client in session with all parties.
pub(crate) struct Client {
    net: Arc<Net>,
    parties: Vec<Link>,
    shapes: Vec<ProgramShape>,
    limit: Duration,
    next: u64,
}

impl Client {
    pub(crate) fn new(net: Arc<Net>, parties: Vec<Link>, shapes: Vec<ProgramShape>, limit: Duration) -> Self {
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
        let shares = input.shares();
        if shares.len() != self.parties.len() {
            return Err(unfit(format!("an input in {} shares for {} parties", shares.len(), self.parties.len())));
        }
        let bytes = shape.output_words * 8;
        self.next += 1;
        let limit = self.limit;
        let parties = self.parties.iter_mut().zip(&shares);
        let asked = parties.map(|(link, share)| ask(link, request, share, bytes, limit)).collect();
        let outputs = self.net.block_on(all(asked)).map_err(first_cause)?;
        let mut sum = vec![0u64; shape.output_words];
        for output in &outputs {
            sum.iter_mut().zip(words_of(output)).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
        }
        Ok(sum)
    }

    /// Has all parties fetch the material of the next request, so that the request itself is online work only.
    pub(crate) fn prepare(&mut self, program: u32) -> Result<(), RoleError> {
        let (request, limit) = (Request { number: self.next, program }, self.limit);
        let wishes = self.parties.iter_mut().map(|link| wish(link, request, limit)).collect();
        self.net.block_on(all(wishes)).map(drop).map_err(first_cause)
    }

    /// What its links have carried.
    pub(crate) fn traffic(&self) -> Vec<Traffic> {
        self.parties.iter().map(Link::traffic).collect()
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
pub(crate) fn first_cause(mut failures: Vec<RoleError>) -> RoleError {
    let at =
        failures.iter().position(|e| !e.is_secondary()).or_else(|| failures.iter().position(RoleError::is_reasoned)).unwrap_or(0);
    failures.swap_remove(at)
}

/// Two or three at the same time; see [`both`].
async fn all<T, F: Future<Output = Result<T, RoleError>>>(mut futures: Vec<F>) -> Result<Vec<T>, Vec<RoleError>> {
    let Some(last) = futures.pop() else { return Ok(Vec::new()) };
    let Some(middle) = futures.pop() else { return last.await.map(|t| vec![t]).map_err(|e| vec![e]) };
    let pair = async { both(middle, last).await.map(|(a, b)| vec![a, b]).map_err(first_cause) };
    match futures.pop() {
        None => pair.await.map_err(|e| vec![e]),
        Some(first) => {
            let (mut all, rest) = both(async { first.await.map(|t| vec![t]) }, pair).await?;
            all.extend(rest);
            Ok(all)
        }
    }
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
