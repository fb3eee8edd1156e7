# Shows a running ctest: failures with their output at once, the rest as a counter (on a terminal, one line redrawn; in
# a file, a line for every tenth of the tests).
function clear() { if (terminal) printf "\r\033[K" }
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
  in_output = 0
  split($1, part, "/"); total = part[2]; ++done
  name = $4
  if ($0 ~ /\*\*\*Skipped/) ++skipped
  else if ($0 !~ / Passed /) { ++failed; in_output = 1; clear(); sub(/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /, "    FAILED "); print }
  if (terminal) printf "\r\033[K  tests       %d/%d  %d failed, %d skipped  %s", done, total, failed, skipped, substr(name, 1, 60)
  else if (int(done * 10 / total) > tenth) {
    tenth = int(done * 10 / total)
    printf "  tests       %d/%d  %d failed, %d skipped\n", done, total, failed, skipped
  }
  fflush(); next
}
/^ *Start +[0-9]+: / { next }
/tests passed, .* tests? failed out of/ || /^100% tests passed/ { in_output = 0 }
in_output { clear(); print "      " $0; fflush() }
