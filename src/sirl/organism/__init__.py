"""How the bundled model organism was made: `python -m sirl.organism.make`. Nothing else imports this."""
