"""The people in front of the pages: how they sign in, what they may do, and the sessions that their browsers keep."""
