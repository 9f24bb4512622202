//! What is kept on disk: whether the database is whole, whether the bus has it, and how full it is.

use std::fs;
use std::os::unix::fs::MetadataExt;

use hermes_bus_store::Report;
use serde_json::{Map, Value};

use super::{Finding, Remedy, Subject, is_own};
use crate::manager::{self, Daemon};

/// Of the quotas, so many percent may be in use.
const QUOTA_PERCENT_MAX: u64 = 80;

pub(super) fn database(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "store";
    let path = subject.root.store_file();
    let shown = path.display();
    let Ok(found) = fs::symlink_metadata(&path) else {
        let report = hermes_bus_store::check(&path);
        let mut findings = vec![Finding::ok(CHECK, "nothing was kept on disk yet")];
        findings.extend(set_aside(&report));
        return findings;
    };
    let mut findings = Vec::new();
    let mode = found.mode() & 0o777;
    if found.is_file() && is_own(&found) && mode & 0o077 != 0 {
        let what = format!("{shown} is open to others (mode {mode:o})");
        let finding = Finding::warning(CHECK, what).advice(format!("chmod 600 {shown}"));
        findings.push(finding.remedy(Remedy::SetMode { path: path.clone(), mode: 0o600 }));
    }
    let report = hermes_bus_store::check(&path);
    findings.push(of_report(&shown.to_string(), &report));
    findings.extend(set_aside(&report));
    findings
}

fn of_report(shown: &str, report: &Report) -> Finding {
    const CHECK: &str = "store";
    /// Findings of the integrity check that are told.
    const TOLD: usize = 3;
    if !report.problems.is_empty() {
        let mut what =
            format!("{shown}: {}", report.problems[..report.problems.len().min(TOLD)].join("; "));
        if report.problems.len() > TOLD {
            what.push_str(&format!("; and {} more", report.problems.len() - TOLD));
        }
        return Finding::problem(CHECK, what).advice(
            "'hermes-busd restart': a damaged store is set aside, and what can be read of it is saved",
        );
    }
    let kib = report.database_bytes.div_ceil(1024);
    let mut what = format!("{shown} is sound ({kib} KiB");
    if let Some(schema) = report.schema {
        what.push_str(&format!(", schema {schema}"));
    }
    what.push(')');
    if report.unclean && report.in_use_by.is_none() {
        what.push_str("; the last bus did not close it");
    }
    Finding::ok(CHECK, what)
}

fn set_aside(report: &Report) -> Option<Finding> {
    if report.set_aside.is_empty() {
        return None;
    }
    let paths: Vec<String> =
        report.set_aside.iter().map(|path| path.display().to_string()).collect();
    let what = format!("a damaged store was set aside: {}", paths.join(", "));
    Some(Finding::warning("store", what).advice(
        "what could be read of it is in the new store; remove the files when nothing is missed",
    ))
}

pub(super) fn in_use(subject: &Subject<'_>) -> Vec<Finding> {
    let Daemon::Running { listing, .. } = &subject.daemon else { return Vec::new() };
    match manager::store_of(subject.root, listing) {
        None => Vec::new(),
        Some(Err(error)) => {
            vec![Finding::note("mailboxes", format!("cannot be asked for: {error:#}"))]
        }
        Some(Ok(store)) => vec![of_running(&store)],
    }
}

/// What a bus that runs says of its store.
fn of_running(store: &Map<String, Value>) -> Finding {
    const CHECK: &str = "mailboxes";
    let text = |key: &str| store.get(key).and_then(Value::as_str).unwrap_or_default();
    let count = |key: &str| store.get(key).and_then(Value::as_u64).unwrap_or(0);
    match text("state") {
        "off" => return Finding::note(CHECK, "nothing is kept on disk (store.enabled is off)"),
        "failed" => {
            return Finding::problem(CHECK, format!("the bus runs without its store: {}", text("why")))
                .advice("messages that must be kept are refused until it can be opened; the bus tries again by itself");
        }
        "trouble" => {
            return Finding::problem(
                CHECK,
                format!("the store cannot be written: {}", text("why")),
            )
            .advice("make room or see to the disk; the bus tries again by itself");
        }
        _ => {}
    }
    let (messages, bytes, quota) = (count("messages"), count("bytes"), count("quota_bytes"));
    let waiting = format!("{messages} messages wait on disk ({bytes} of {quota} bytes)");
    if quota > 0 && bytes.saturating_mul(100) >= quota.saturating_mul(QUOTA_PERCENT_MAX) {
        return Finding::warning(CHECK, waiting).advice(
            "'hermes-bus mailbox list' says for whom; over the quota, senders hear mailbox_full",
        );
    }
    Finding::ok(CHECK, waiting)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::doctor::Severity;
    use crate::doctor::tests::{World, only};

    #[test]
    fn a_bus_without_a_store_is_fine_and_its_file_is_for_its_user_alone() {
        let world = World::created();
        assert_eq!(only(database(&world.subject())).severity, Severity::Ok);
        let path = world.root.store_file();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let findings = database(&world.subject());
        assert_eq!(findings[0].severity, Severity::Warning, "{findings:?}");
        assert!(findings[0].is_fixable());
    }

    #[test]
    fn damage_and_what_was_set_aside_is_told() {
        let sound = Report { exists: true, database_bytes: 4096, ..Report::default() };
        assert_eq!(of_report("/x", &sound).severity, Severity::Ok);
        assert_eq!(set_aside(&sound), None);
        let problems = (0..5).map(|n| format!("page {n}")).collect();
        let damaged = Report { problems, set_aside: vec![PathBuf::from("/old")], ..sound };
        let finding = of_report("/x", &damaged);
        assert_eq!(finding.severity, Severity::Problem);
        assert_eq!(finding.what, "/x: page 0; page 1; page 2; and 2 more");
        let aside = set_aside(&damaged).unwrap();
        assert!(aside.what.contains("/old") && aside.severity == Severity::Warning);
    }

    #[test]
    fn a_store_is_in_trouble_or_nearly_full() {
        let severity = |store: Value| of_running(store.as_object().unwrap()).severity;
        assert_eq!(severity(json!({"state": "off"})), Severity::Note);
        assert_eq!(severity(json!({"state": "failed", "why": "x"})), Severity::Problem);
        assert_eq!(severity(json!({"state": "trouble", "why": "x"})), Severity::Problem);
        let used = |bytes: u64| json!({"state": "open", "bytes": bytes, "quota_bytes": 1_000});
        assert_eq!(severity(used(799)), Severity::Ok);
        assert_eq!(severity(used(800)), Severity::Warning);
    }
}
