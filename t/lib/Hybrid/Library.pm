# SPDX-License-Identifier: Apache-2.0
package Hybrid::Library;

# A program that uses a real client library, with so many connections kept alive, GET and POST by turns, and counts
# failures as that library reports them to its user. t/clients has the programs; curl is its own.
#
#   my $go = Hybrid::Library->new('go', $url, 'h1', 4);   # go, python, node; so many requests at once
#   $go->ask(2);                                          # each asks twice
#   $go->ask(1, 5, 400);                                  # or for 5 s, at least once, with pauses of up to 400 ms
#   $go->result;                                          # waits: { answered => 8, failed => { why => how often } }
#   my $end = curl(['http2'], transfer($url), ...);       # a function like result(); { connections }, too

use strict;
use warnings;
use Carp;
use Exporter 'import';
use FindBin;
use IPC::Open2;
use JSON::PP;
use POSIX ();
use Hybrid::Load qw(start_command);
use Hybrid::Packages qw(program);

our @EXPORT_OK = qw(curl transfer);

my $PROGRAMS = "$FindBin::Bin/clients";
my $compiled; # of Go
my $curls = 0;

# Why a library can't be had in this release; undef when it can.
sub missing {
    my ($name) = @_;
    my %program = (go => 'go', python => 'python3', node => 'node', curl => 'curl');
    return if eval { program($program{$name}) };
    return "this machine has no $program{$name}: build/install-deps brings it where the release has it";
}

sub command {
    my ($name) = @_;
    return (program('python3'), "$PROGRAMS/client.py") if $name eq 'python';
    return (program('node'), "$PROGRAMS/client.js") if $name eq 'node';
    return $compiled //= compile() if $name eq 'go';
    croak "no library $name";
}

# Debian's Go may have to compile its library, which takes a minute: that is kept below build/out.
sub compile {
    my $out = "$FindBin::Bin/clients/go";
    my $go = program('go');
    my ($root) = $go =~ m{^(.*)/run/go$} ? glob("$1/usr/lib/go-[0-9]*") : ();
    my $kept = "$ENV{HYBRID_TOP}/build/out/go";
    local %ENV = (%ENV, GO111MODULE => 'off', CGO_ENABLED => 0, GOFLAGS => '', GOTOOLCHAIN => 'local', GOCACHE => $kept,
        GOPATH => "$kept/path", defined $root ? (GOROOT => $root) : ());
    my $text = Hybrid::Load::run_command(400, $go, 'build', '-o', $out, "$PROGRAMS/client.go");
    croak "go build: $text" if !-x $out;
    return $out;
}

sub new {
    my ($class, $name, $url, $protocol, $clients) = @_;
    my $pid = open2(my $out, my $in, command($name), $url, $protocol, $clients);
    return bless { name => "$name $protocol", out => $out, in => $in, pid => $pid, owner => $$ }, $class;
}

sub name { $_[0]{name} }

sub ask {
    my ($self, $least, $seconds, $pause) = @_;
    syswrite $self->{in}, join(' ', $least, $seconds // 0, $pause // 0) . "\n" or croak "$self->{name}: $!";
}

sub result {
    my ($self) = @_;
    my $out = $self->{out};
    my $line = <$out> // croak "$self->{name} has ended";
    return decode_json($line);
}

# One transfer of curl's, as lines of a configuration; what comes is thrown away, its status printed. (POST to what is
# answered at once fails now and then over HTTP/2 with curl 7.88, with every server and without any reload: error 92.)
sub transfer {
    my ($url, $post) = @_;
    my @lines = (qq(url = "$url"), 'output = "/dev/null"', 'write-out = "%{stderr}%{http_code} %{num_connects}\n"',
        qw(insecure silent show-error), 'max-time = 30', $post ? 'data = "' . 'x' x 500 . '"' : ());
    return join '', map { "$_\n" } @lines;
}

# Starts it with transfers, one after another or side by side ('parallel'), each with such lines of a configuration.
sub curl {
    my ($settings, @transfers) = @_;
    open my $out, '>', my $file = "$FindBin::Bin/clients/curl.$$." . ++$curls or croak "curl: $!";
    print $out join "next\n", map { "$_" . join('', map { "$_\n" } @$settings) } @transfers;
    close $out;
    my $end = start_command(60, program('curl'), '-q', '--config', $file);
    return sub {
        my $text = $end->();
        unlink $file;
        my %result = (answered => 0, connections => 0, failed => {});
        my $said = 0;
        for (split /\n/, $text) {
            if (/^(\d{3}) (\d+)$/) {
                $said++;
                $result{connections} += $2;
                $1 eq '200' ? $result{answered}++ : $1 eq '000' ? () : $result{failed}{"status $1"}++;
            }
            else { $result{failed}{ s/127\.0\.0\.1:\d+|after \d+ ms|\d+ bytes/../gr }++ }
        }
        $result{failed}{'gave up'} += @transfers - $said if $said < @transfers;
        return \%result;
    };
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local ($?, $!);
    close $self->{in};
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
