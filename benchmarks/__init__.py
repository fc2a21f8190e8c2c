"""What the README claims about cost, measured: contenders interleaved in one run, as ratios."""
