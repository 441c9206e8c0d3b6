//! How parts of a snapshot are written where serde's own form would not do: words that are not owned, and long rows of mostly zeros.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Every word that a gate's relation or unit may be.
const WORDS: [&str; 8] = ["<=", ">=", "ms", "s", "%", "x", "/s", ""];

/// Reads one of [`WORDS`]; another one was written by another version, and is shown as not known.
pub(super) fn word<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let text = String::deserialize(from)?;
    Ok(WORDS.into_iter().find(|w| **w == *text).unwrap_or("?"))
}

/// Counts as `[index of the first that is not 0, count, count, …]`, up to the last that is not 0; nothing but zeros is `[]`.
pub(super) mod sparse {
    use serde::{Serialize, Serializer};

    use super::{Deserialize, Deserializer, Error};

    pub(in super::super) fn serialize<S: Serializer, const N: usize>(
        counts: &[u32; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let first = counts.iter().position(|c| *c != 0);
        let last = counts.iter().rposition(|c| *c != 0);
        match first.zip(last) {
            None => [0u32; 0].serialize(to),
            Some((first, last)) => {
                let mut out = Vec::with_capacity(last - first + 2);
                // At most a few dozen.
                out.push(first as u32);
                out.extend_from_slice(&counts[first..=last]);
                out.serialize(to)
            }
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u32; N], D::Error> {
        let given = Vec::<u32>::deserialize(from)?;
        let mut counts = [0; N];
        if let Some((first, rest)) = given.split_first() {
            let first = *first as usize;
            let place = first.checked_add(rest.len()).and_then(|end| counts.get_mut(first..end));
            place.ok_or_else(|| D::Error::custom("more counts than there is room for"))?.copy_from_slice(rest);
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use crate::runtime::Micros;
    use crate::snapshot::{GateView, HEAT_ROWS, HeatColumn, LATENCY_BINS, LatencyView, Snapshot};

    fn there_and_back(s: &Snapshot) -> Snapshot {
        serde_json::from_str(&serde_json::to_string(s).unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_known_stays_not_known() {
        let s = there_and_back(&Snapshot::default());
        assert_eq!(format!("{s:?}"), format!("{:?}", Snapshot::default()));
        assert_eq!((s.traffic.lost, s.way_back.writes_at_risk, s.reads[0].p99, s.lag.apply), (None, None, None, None));
    }

    #[test]
    fn rows_of_counts_come_back_as_they_were() {
        for (at, n) in [(0, 1), (HEAT_ROWS - 1, 7), (3, 4)] {
            let mut column = HeatColumn { start: Micros::from_secs(5), rows: [0; HEAT_ROWS] };
            column.rows[at] = n;
            column.rows[at / 2] = 2;
            let mut view = LatencyView { heat: vec![column], ..LatencyView::default() };
            view.bins[LATENCY_BINS - 1 - at] = 9;
            let mut s = Snapshot::default();
            s.reads[1] = view.clone();
            let back = there_and_back(&s);
            assert_eq!((back.reads[1].bins, back.reads[1].heat[0].rows), (view.bins, view.heat[0].rows));
        }
        let json = r#"{"start":0,"rows":[17,1,1]}"#;
        assert!(serde_json::from_str::<HeatColumn>(json).is_err(), "it reaches beyond the last row");
    }

    #[test]
    fn a_unit_of_another_version_is_not_known() {
        let gate = GateView { relation: "<=", unit: "ms", ..GateView::default() };
        let json = serde_json::to_string(&gate).unwrap();
        let back: GateView = serde_json::from_str(&json.replace("\"ms\"", "\"furlongs\"")).unwrap();
        assert_eq!((back.relation, back.unit), ("<=", "?"));
    }
}
