"""A standing attack: a small study is killed, stopped, starved and cut off at random moments, and must end as the
undisturbed one does. `make chaos` runs it; docs/reliability.md says what it found."""
