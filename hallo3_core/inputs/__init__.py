"""What a user gives, read and checked: portrait, face, recording, audio features, prompt."""
