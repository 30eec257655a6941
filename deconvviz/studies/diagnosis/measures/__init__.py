"""What the checks measure, apart from what they call a finding."""
