"""What a plan is: pure data and its interpreter. No torch."""
