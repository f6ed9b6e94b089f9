"""Other gateways, measured together with Farebox in one run: installed into `bench/.peers/`, one folder each."""
