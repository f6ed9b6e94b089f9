"""How money comes in and goes back: purchases, auto top-up, cards, refunds, disputes, documents, reconciliation."""
