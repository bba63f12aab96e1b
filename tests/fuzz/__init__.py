"""Random damage to everything that labelscale reads: each input is read or refused with a sentence, nothing else.
`make fuzz` runs it; docs/reliability.md says what it found."""
