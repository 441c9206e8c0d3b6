//! Questions, as far as they can be computed from one document.

use bson::RawDocument;

use super::Core;
use super::faults::OpKind;
use crate::cluster::{ClusterTime, Failed, Key, Ns, Question, Replies, Told};

impl Core {
    pub(super) async fn ask(
        &self,
        ns: &Ns,
        keys: &[Key],
        questions: &[Question],
        after: ClusterTime,
    ) -> Result<Replies, Failed> {
        let read = self.read(ns, keys, after).await?;
        let told = questions.iter().map(|q| tell(q, read.docs.iter().map(|d| d.as_deref()))).collect();
        Ok(Replies { docs: read.docs, told, at: read.at })
    }

    pub(super) async fn draw(&self, ns: &Ns, among: Option<&Question>, most: usize) -> Result<Vec<Key>, Failed> {
        let plan = self.begin(OpKind::Scan, ns, 0).await?;
        crate::runtime::sleep(&self.rt, plan.before).await;
        let at = self.read_time(ClusterTime::ZERO, plan.bits).await?;
        let found = self.with(|s, _| {
            let Some(coll) = s.colls.get(ns) else { return Vec::new() };
            let there = coll.docs.iter().filter_map(|(k, chain)| Some((k, chain.at(at)?)));
            match among {
                // Every so many-th, beginning anywhere.
                None => {
                    let step = (coll.live / most.max(1)).max(1);
                    let first = (plan.bits >> 7) as usize % step;
                    there.skip(first).step_by(step).take(most).map(|(k, _)| k.clone()).collect()
                }
                Some(Question { here: Some(here), .. }) => {
                    there.filter(|(_, d)| matches!(here(d), Ok(Some(_)))).take(most).map(|(k, _)| k.clone()).collect()
                }
                Some(_) => Vec::new(),
            }
        });
        crate::runtime::sleep(&self.rt, plan.after).await;
        Ok(found)
    }
}

fn tell<'d>(q: &Question, docs: impl Iterator<Item = Option<&'d RawDocument>>) -> Told {
    let Some(here) = &q.here else { return Told::Unable };
    // What could come out otherwise on a server, or not at all, is not answered in its place.
    docs.map(|d| d.map_or(Ok(None), |d| here(d))).collect::<Result<_, _>>().map_or(Told::Unable, Told::Of)
}
