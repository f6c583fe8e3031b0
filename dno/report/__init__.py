"""What a run tells people: its verdict in words, and one page that shows it."""
