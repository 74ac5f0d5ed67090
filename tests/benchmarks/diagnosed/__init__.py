"""What diagnosis.py needs: its record, the figures behind it, remedies, and the choice of thresholds."""
