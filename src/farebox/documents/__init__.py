"""Documents: what invoices, credit notes and statements say, and how they become PDF (typst)."""
