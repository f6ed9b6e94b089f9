"""Messages on their way out: signed webhooks over HTTP, and e-mail."""
