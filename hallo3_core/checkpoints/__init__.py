"""Files: reading them safely, the official names and ours, the release's layout, the toy release."""
