//! What `bus-rules.yaml` says.
