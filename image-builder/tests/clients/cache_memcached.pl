# Cache::Memcached (in Perl, by memcached's own authors) and Cache::Memcached::Fast (in C) against the store at the first argument.
use strict;
use warnings;
use Cache::Memcached;
use Cache::Memcached::Fast;

my $at = "$ARGV[0]:11211";
sub check { my ($what, $holds) = @_; die "$what\n" unless $holds }

my $plain = Cache::Memcached->new({ servers => [$at], compress_threshold => 10_000, select_timeout => 20 });
check('set', $plain->set('a', 'one') && $plain->get('a') eq 'one');
check('structure', $plain->set('s', { list => [1, 2] }) && $plain->get('s')->{list}[1] == 2);
check('compressed', $plain->set('long', 'x' x 100_000) && length($plain->get('long')) == 100_000);
check('add', !$plain->add('a', 'two') && $plain->add('b', 'two'));
check('replace', $plain->replace('a', 'three') && !$plain->replace('none', 'three'));
check('count', $plain->set('n', 5) && $plain->incr('n', 4) == 9 && $plain->decr('n') == 8);
my $many = $plain->get_multi('a', 'b', 'n', 'none');
check('multi', $many->{a} eq 'three' && $many->{b} eq 'two' && $many->{n} == 8 && !exists $many->{none});
check('delete', $plain->delete('a') && !defined $plain->get('a'));
check('stats', $plain->stats(['misc'])->{hosts}{$at}{misc}{cmd_get} > 0);

my $fast = Cache::Memcached::Fast->new({ servers => [$at], io_timeout => 20, connect_timeout => 20 });
check('fast set', $fast->set('f', 'b') && $fast->append('f', 'c') && $fast->prepend('f', 'a') && $fast->get('f') eq 'abc');
my $got = $fast->gets('f');
check('fast cas', $fast->cas('f', $got->[0], 'new') && !$fast->cas('f', $got->[0], 'newer') && $fast->get('f') eq 'new');
my @results = $fast->set_multi(map { ["m$_", $_] } 1 .. 100);
check('fast set_multi', 100 == grep { $_ } @results);
check('fast get_multi', $fast->get_multi(map { "m$_" } 1 .. 100)->{m100} == 100);
check('fast touch', $fast->touch('f', 100) && !$fast->touch('none', 100));
check('fast incr', $fast->set('n', 10) && $fast->incr('n', 5) == 15);
check('fast version', defined $fast->server_versions->{$at});
$fast->flush_all;
check('flushed', !defined $plain->get('b'));
print "Cache::Memcached and Cache::Memcached::Fast are content\n";
