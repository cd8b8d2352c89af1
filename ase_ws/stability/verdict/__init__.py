"""From what was found to a verdict: rates, reasons, who is at fault, and the evidence."""
