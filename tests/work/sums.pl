# sums.pl - run by a guest's perl and the host's, which must print the same.
use strict;
use warnings;
use integer;

my $seed = 12345;
sub rnd { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return $seed >> 8 }

sub fold {
	my ($h, $text) = @_;
	$h = ($h * 33 + ord $_) & 0x7fffffff for split //, $text;
	return $h;
}

my %count;
my @words = map { sprintf "%x", rnd() } 1 .. 30000;
$count{ substr $_, 0, 2 }++ for @words;
print "words ", fold(5, join ' ', map { "$_=$count{$_}" } sort keys %count), "\n";

my $text = join ' ', sort @words;
(my $swapped = $text) =~ s/(\w)(\d)/$2$1/g;
my $runs = () = $swapped =~ /(?:[0-4][a-f]){2,}/g;
print "regex ", fold(7, substr $swapped, 0, 100000), " $runs\n";

my @matrix = map { [map { rnd() & 255 } 1 .. 40] } 1 .. 40;
my $sum = 0;
for my $i (0 .. 39) {
	for my $j (0 .. 39) {
		my $cell = 0;
		$cell += $matrix[$i][$_] * $matrix[$_][$j] for 0 .. 39;
		$sum = ($sum * 31 + $cell) & 0x7fffffff;
	}
}
print "matrix $sum\n";

{
	no integer;
	my ($x, $s) = (0.5, 0);
	for my $i (1 .. 200000) { $x = 3.9 * $x * (1 - $x); $s += sqrt($x) / $i + sin($i) * 1e-6 }
	printf "floats %.15g\n", $s;
}

my @heap;
for (1 .. 20000) {
	push @heap, rnd();
	for (my $i = $#heap; $i && $heap[$i] < $heap[($i - 1) / 2]; $i = ($i - 1) / 2) {
		@heap[$i, ($i - 1) / 2] = @heap[($i - 1) / 2, $i];
	}
}
print "heap ", fold(9, join ',', @heap[0 .. 500]), "\n";
print "pack ", unpack('%32C*', pack('w/a* N n C', $text, 1, 2, 3)), "\n";
