"""The nouns of mail: addresses, replies, envelopes, lines, trace headers. No input, no output, no clock."""
