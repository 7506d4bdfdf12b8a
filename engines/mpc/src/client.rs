//! The client: shares its input to the two parties and alone learns the output.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::RoleError;
use crate::net::{Kind, Link, Net, Traffic, What, both};
use crate::request::{INPUT, Request, SEED, bytes_of, expand, words_of};
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

    /// One inference: `x` over Z_2^64 in, the output words over Z_2^64 back.
    pub(crate) fn infer(&mut self, program: u32, x: &[u64], public: &[u8]) -> Result<Vec<u64>, RoleError> {
        let request = Request { number: self.next, program };
        let unfit = |what: String| RoleError::Request { request: request.number, what };
        let shape = self.shapes.get(program as usize).ok_or_else(|| unfit(format!("program {program} does not exist")))?;
        if (x.len(), public.len()) != (shape.input_words, shape.public_bytes) {
            let due = (shape.input_words, shape.public_bytes);
            return Err(unfit(format!("{} words and {} public bytes where the program takes {due:?}", x.len(), public.len())));
        }
        let shares = share(x, public).map_err(|e| RoleError::System(e.to_string()))?;
        let bytes = shape.output_words * 8;
        self.next += 1;
        let limit = self.limit;
        let [link0, link1] = &mut self.parties;
        let asked = both(ask(link0, request, &shares[0], bytes, limit), ask(link1, request, &shares[1], bytes, limit));
        let (a, b) = self.net.block_on(asked).map_err(first_cause)?;
        Ok(words_of(&a).iter().zip(words_of(&b)).map(|(a, b)| a.wrapping_add(b)).collect())
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

/// Party 0's frame, `public ‖ seed`, and party 1's, `public ‖ x - G(seed)`.
fn share(x: &[u64], public: &[u8]) -> Result<[Zeroizing<Vec<u8>>; 2], getrandom::Error> {
    let mut seed = Zeroizing::new([0; SEED]);
    getrandom::fill(&mut *seed)?;
    let mask = Zeroizing::new(expand(INPUT, &seed, x.len()));
    let rest: Zeroizing<Vec<u64>> = Zeroizing::new(x.iter().zip(mask.iter()).map(|(x, r)| x.wrapping_sub(*r)).collect());
    Ok([Zeroizing::new([public, &seed[..]].concat()), Zeroizing::new([public, &bytes_of(&rest)[..]].concat())])
}

/// A party that only lost its peer tells less than the one that failed.
fn first_cause(mut failures: Vec<RoleError>) -> RoleError {
    let at = failures.iter().position(|e| !e.is_secondary()).or_else(|| failures.iter().position(RoleError::is_reasoned)).unwrap_or(0);
    failures.swap_remove(at)
}

async fn wish(link: &mut Link, request: Request, limit: Duration) -> Result<(), RoleError> {
    let what = What::Ready { request: request.number };
    link.send(Kind::Prepare, &request.encode(), what).await?;
    Ok(link.recv_within(Kind::Ready, 0, what, limit).await.map(drop)?)
}

async fn ask(link: &mut Link, request: Request, share: &[u8], output: usize, limit: Duration) -> Result<Zeroizing<Vec<u8>>, RoleError> {
    let number = request.number;
    link.send(Kind::Request, &request.encode(), What::Input { request: number }).await?;
    link.send(Kind::Input, share, What::Input { request: number }).await?;
    Ok(Zeroizing::new(link.recv_within(Kind::Output, output, What::Output { request: number }, limit).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_neither_repeats() {
        let x: Vec<u64> = (0..100).map(|i| i * 0x0123_4567_89ab).collect();
        let open = |shares: [Zeroizing<Vec<u8>>; 2]| -> Vec<u64> {
            let seed: [u8; SEED] = shares[0][3..].try_into().unwrap();
            words_of(&shares[1][3..]).iter().zip(expand(INPUT, &seed, 100)).map(|(b, a)| a.wrapping_add(*b)).collect()
        };
        let [first, second] = [0, 1].map(|_| share(&x, b"pub").unwrap());
        assert_eq!(first[0][..3], *b"pub");
        assert_ne!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
        assert_eq!(open(first), x);
        assert_eq!(open(second), x);
    }
}
