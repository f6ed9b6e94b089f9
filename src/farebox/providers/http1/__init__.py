"""An HTTP/1.1 client on the event loop itself: a pool of connections, one wake-up for each piece of a response.

Ready-made clients cost ten times as much CPU a call, or hand each piece from a thread of theirs to the loop. What ours
leaves out is not needed here: redirects, cookies, decompression, HTTP/2.
"""
