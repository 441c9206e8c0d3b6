//! `tidegate check`, the part that looks at the clusters: a table, worst first, or a JSON object a check and a summary.

use serde_json::{Value, json};

use super::live::look_at;
use super::{DONE, NEEDS_OPERATOR, Outcome, out};
use crate::engine::preflight::{Finding, Outcome as Checked, Report, Verdict, judge};
use crate::plan::Plan;

/// Columns of the table.
const WIDTH: usize = 110;
/// Where a finding's text begins.
const INDENT: usize = 9;

pub(super) fn run(plan: Plan, sample: u32, json: bool) -> Outcome {
    let head = format!("{} version {}: {}", plan.id, plan.version, plan.title);
    let sides = plan.collections.iter().map(|c| format!("{} -> {}", c.legacy, c.next)).collect::<Vec<_>>().join(", ");
    let about = json!({ "id": plan.id, "title": plan.title, "version": plan.version, "hash": plan.hash });
    let report = judge(&look_at(plan, sample)?);
    if json {
        report.outcomes.iter().for_each(|o| out::json(&object(o)));
        out::json(&summary(&report, &about));
    } else {
        out::line(&head);
        out::line(&sides);
        out::line("");
        table(&report).iter().for_each(|l| out::line(l));
    }
    Ok(if report.is_clean() { DONE } else { NEEDS_OPERATOR })
}

fn object(o: &Checked) -> Value {
    let findings: Vec<Value> = o
        .findings
        .iter()
        .map(|f| json!({ "verdict": f.verdict.name(), "where": f.place, "what": f.what, "do": f.remedy }))
        .collect();
    json!({
        "kind": "preflight", "check": o.check.name, "topic": o.check.topic.name(), "verdict": o.verdict.name(),
        "findings": findings,
    })
}

fn summary(r: &Report, plan: &Value) -> Value {
    let n = |v| r.count(v);
    json!({
        "kind": "summary", "ok": r.is_clean(), "plan": plan, "checks": r.outcomes.len(), "sampled": r.sampled,
        "fail": n(Verdict::Fail), "warn": n(Verdict::Warn), "skipped": n(Verdict::Skipped), "note": n(Verdict::Note),
        "pass": n(Verdict::Pass), "sentence": r.sentence(),
    })
}

/// What is to be read, worst first; checks that pass are named only.
fn table(r: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for verdict in [Verdict::Fail, Verdict::Warn, Verdict::Skipped, Verdict::Note] {
        for o in &r.outcomes {
            for f in o.findings.iter().filter(|f| f.verdict == verdict) {
                lines.extend(finding(o.check.name, f));
            }
        }
    }
    for o in r.outcomes.iter().filter(|o| matches!(o.check.name, "copy-time" | "free-space" | "oplog-for-copy")) {
        // What it would take is wanted even where nothing speaks against it.
        for f in o.findings.iter().filter(|f| f.verdict == Verdict::Pass) {
            lines.extend(finding(o.check.name, f));
        }
    }
    let passed: Vec<&str> = r.outcomes.iter().filter(|o| o.verdict == Verdict::Pass).map(|o| o.check.name).collect();
    if !passed.is_empty() {
        lines.push(String::new());
        lines.extend(wrapped(&format!("{} pass: {}", passed.len(), passed.join(", ")), 0));
    }
    lines.push(String::new());
    lines.push(r.sentence());
    lines
}

fn finding(check: &str, f: &Finding) -> Vec<String> {
    // What stops somebody is seen without colours, too.
    let word = if f.verdict == Verdict::Fail { "FAIL".to_owned() } else { f.verdict.name().to_owned() };
    let mut lines = vec![format!("{word:<8} {check}: {}", f.place)];
    lines.extend(wrapped(&f.what, INDENT));
    if !f.remedy.is_empty() {
        lines.extend(wrapped(&format!("=> {}", f.remedy), INDENT));
    }
    lines
}

/// Breaks a text at spaces; a longer word stands by itself.
fn wrapped(text: &str, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH - indent {
            lines.push(format!("{}{line}", " ".repeat(indent)));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(format!("{}{line}", " ".repeat(indent)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_stay_within_the_width() {
        let text = "word ".repeat(60) + &"x".repeat(200);
        let lines = wrapped(&text, INDENT);
        assert!(lines.len() > 3 && lines.iter().all(|l| l.starts_with("         ")));
        assert!(lines.iter().filter(|l| l.chars().count() > WIDTH).count() == 1, "only the long word is longer");
        assert_eq!(lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" "), text);
    }
}
