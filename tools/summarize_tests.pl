# Reads the JUnit file of ctest; prints sizes that are over their limit, the tests that were skipped with their reasons,
# those that failed, and closes with "N passed, N failed, N skipped". Exit code 1 when one failed or none passed.
use strict;
use warnings;

my $file = shift or die "usage: summarize_tests.pl JUNIT.xml\n";
open my $in, '<', $file or die "$file: $!\n";
my $xml = do { local $/; <$in> };

sub text_of {
  my ($s) = @_;
  my %entity = (lt => '<', gt => '>', quot => '"', apos => "'", amp => '&');
  $s =~ s/&(lt|gt|quot|apos|amp);/$entity{$1}/g;
  $s =~ s/&#(x[0-9a-fA-F]+|\d+);/chr($1 =~ m{^x(.*)} ? hex $1 : $1)/ge;
  return $s;
}

# GoogleTest prints "FILE:LINE: Skipped" and the message on the next line; scripts print "skipped: REASON".
sub reason_of {
  my ($output) = @_;
  return $1 if $output =~ /^\S+:\d+: Skipped\n(?!\[)([^\n]+)/m;
  return $1 if $output =~ /^skipped: ([^\n]+)/m;
  return 'no reason given';
}

my ($passed, @failed, %skipped, @sizes) = (0);
while ($xml =~ m{<testcase name="([^"]*)"[^>]*status="([^"]*)"[^>]*?(?:/>|>(.*?)</testcase>)}gs) {
  my ($name, $status, $body) = (text_of($1), $2, defined $3 ? $3 : '');
  my $output = $body =~ m{<system-out>(.*?)</system-out>}s ? text_of($1) : '';
  push @sizes, $output =~ /^\[ (?:large|long|sizes) +\] ([^\n]*)/mg;  # warnings of tests/style
  if ($status eq 'run') { ++$passed }
  elsif ($body =~ /SKIP_(REGULAR_EXPRESSION|RETURN_CODE)/) { push @{$skipped{reason_of($output)}}, $name }
  elsif ($status eq 'disabled') { push @{$skipped{'disabled'}}, $name }
  else { push @failed, $name }
}

print "  sizes       $_\n" for @sizes;
my $num_skipped = 0;
for my $reason (sort keys %skipped) {
  my @names = @{$skipped{$reason}};
  $num_skipped += @names;
  print "  skipped     $reason:\n";
  print "                $_\n" for @names;
}
print "  failed      $_\n" for @failed;
printf "%d passed, %d failed, %d skipped\n", $passed, scalar @failed, $num_skipped;
exit(@failed || !$passed ? 1 : 0);
