"""What tests share: a private server, waiting for facts."""
