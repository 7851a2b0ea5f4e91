"""What users declare: `lab` is netlab's own document, `kubernetes` the upstream kinds."""
