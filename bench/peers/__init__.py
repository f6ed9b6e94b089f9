"""Other gateways, measured beside Farebox in one run: installed into `bench/.peers/`, one folder each."""
