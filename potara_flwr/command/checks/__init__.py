"""What ``potara doctor`` looks at: functions that return what they found, one file a subject."""
