package records

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53/types"
	"github.com/aws/smithy-go"
)

// amazon is Amazon Route 53. All values of a name and type are one resource record
// set there, changed as a whole: a change takes the old set out and puts the new
// one in, in one batch, which is refused when the old one is no longer as it was
// read. So two nodes never lose each other's values.
type amazon struct {
	Config
	poll time.Duration // pause between two looks at a change

	// changing is held while a set is read and changed: what runs here need not
	// refuse itself.
	changing sync.Mutex

	client     *route53.Client // under making
	making     sync.Mutex
	madeClient bool
}

const (
	route53Region   = "us-east-1"      // of a global service; another for China
	route53TTL      = 60 * time.Second // of a set that is new
	route53Attempts = 8                // to change a set that others change
	route53Poll     = 2 * time.Second
)

func newRoute53(c Config) *amazon { return &amazon{Config: c, poll: route53Poll} }

func (a *amazon) add(ctx context.Context, set set) error {
	client, err := a.api(ctx)
	if err != nil {
		return err
	}
	zone, err := a.find(ctx, client, set.name)
	if err != nil {
		return err
	}
	change, _, err := a.change(ctx, client, zone, set, func(values []string) []string {
		for _, value := range set.wire() {
			if !slices.Contains(values, value) {
				values = append(values, value)
			}
		}
		return values
	})
	if err != nil || change == "" {
		return err
	}
	waiter := route53.NewResourceRecordSetsChangedWaiter(client, func(o *route53.ResourceRecordSetsChangedWaiterOptions) {
		o.MinDelay, o.MaxDelay = a.poll, a.poll
	})
	if err := waiter.Wait(ctx, &route53.GetChangeInput{Id: &change}, a.Timeout); err != nil {
		return fmt.Errorf("wait until the zone's servers have it: %w", worded(err))
	}
	return nil
}

func (a *amazon) remove(ctx context.Context, set set) ([]string, error) {
	client, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	zone, err := a.find(ctx, client, set.name)
	if err != nil {
		return nil, err
	}
	wire := set.wire()
	_, old, err := a.change(ctx, client, zone, set, func(values []string) []string {
		return slices.DeleteFunc(values, func(value string) bool { return slices.Contains(wire, value) })
	})
	if err != nil {
		return nil, err
	}
	var removed []string
	for i, value := range wire {
		if slices.Contains(old, value) {
			removed = append(removed, set.values[i])
		}
	}
	return removed, nil
}

// wire are the values as the API has them: a text in quotes, in pieces of 255
// bytes.
func (s set) wire() []string {
	list := slices.Clone(s.values)
	if s.kind != "TXT" {
		return list
	}
	for i, value := range list {
		var pieces []string
		for piece := range slices.Chunk([]byte(value), 255) {
			pieces = append(pieces, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(string(piece))+`"`)
		}
		list[i] = strings.Join(pieces, " ")
	}
	return list
}

// change makes the values of a set others, and gives the change's id, "" when
// there was nothing to change, and the values that were there.
func (a *amazon) change(ctx context.Context, client *route53.Client, zone string, set set, to func([]string) []string) (string, []string, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	for attempt := 1; ; attempt++ {
		old, err := a.read(ctx, client, zone, set)
		if err != nil {
			return "", nil, err
		}
		ttl, values := int64(max(set.ttl, route53TTL)/time.Second), []string(nil)
		var changes []types.Change
		if old != nil {
			ttl = aws.ToInt64(old.TTL)
			for _, record := range old.ResourceRecords {
				values = append(values, aws.ToString(record.Value))
			}
			changes = append(changes, types.Change{Action: types.ChangeActionDelete, ResourceRecordSet: old})
		}
		wanted := to(slices.Clone(values))
		if slices.Equal(wanted, values) {
			return "", values, nil
		}
		if len(wanted) > 0 {
			made := &types.ResourceRecordSet{Name: aws.String(set.name + "."), Type: types.RRType(set.kind), TTL: &ttl}
			for _, value := range wanted {
				made.ResourceRecords = append(made.ResourceRecords, types.ResourceRecord{Value: aws.String(value)})
			}
			changes = append(changes, types.Change{Action: types.ChangeActionCreate, ResourceRecordSet: made})
		}
		answer, err := client.ChangeResourceRecordSets(ctx, &route53.ChangeResourceRecordSetsInput{
			HostedZoneId: &zone, ChangeBatch: &types.ChangeBatch{Changes: changes},
		})
		var changed *types.InvalidChangeBatch
		switch {
		case err == nil && answer.ChangeInfo != nil:
			return aws.ToString(answer.ChangeInfo.Id), values, nil
		case err == nil:
			return "", nil, errors.New("the API's answer has no change in it")
		case !errors.As(err, &changed) || attempt == route53Attempts:
			return "", nil, worded(err)
		}
		// Another node was faster: look again.
		if err := pause(ctx, rand.N(a.poll)); err != nil {
			return "", nil, err
		}
	}
}

// read is the set as it is, nil when there is none.
func (a *amazon) read(ctx context.Context, client *route53.Client, zone string, set set) (*types.ResourceRecordSet, error) {
	answer, err := client.ListResourceRecordSets(ctx, &route53.ListResourceRecordSetsInput{
		HostedZoneId: &zone, StartRecordName: aws.String(set.name + "."), StartRecordType: types.RRType(set.kind), MaxItems: aws.Int32(1),
	})
	if err != nil {
		return nil, worded(err)
	}
	for _, found := range answer.ResourceRecordSets {
		if route53Name(found.Name) != set.name || string(found.Type) != set.kind {
			continue
		}
		if found.SetIdentifier != nil || found.AliasTarget != nil {
			return nil, fmt.Errorf("the record set %s has a routing policy or is an alias; make it a simple one", set.name)
		}
		return &found, nil
	}
	return nil, nil
}

// find is the id of the zone of name: the longest public hosted zone of the
// account that it ends in.
func (a *amazon) find(ctx context.Context, client *route53.Client, name string) (string, error) {
	if a.Zone != "" {
		return a.Zone, nil
	}
	for _, candidate := range suffixes(name) {
		var ids []string
		input := &route53.ListHostedZonesByNameInput{DNSName: aws.String(candidate + ".")}
		for same := true; same; {
			answer, err := client.ListHostedZonesByName(ctx, input)
			if err != nil {
				return "", worded(err)
			}
			for _, zone := range answer.HostedZones {
				same = route53Name(zone.Name) == candidate
				if !same {
					break
				}
				if zone.Config == nil || !zone.Config.PrivateZone {
					ids = append(ids, strings.TrimPrefix(aws.ToString(zone.Id), "/hostedzone/"))
				}
			}
			same = same && answer.IsTruncated
			input.DNSName, input.HostedZoneId = answer.NextDNSName, answer.NextHostedZoneId
		}
		switch len(ids) {
		case 0:
		case 1:
			return ids[0], nil
		default:
			return "", fmt.Errorf("the account has %d public hosted zones %s; write the id of the one that is delegated to: zone: %s", len(ids), candidate, ids[0])
		}
	}
	return "", fmt.Errorf("no public hosted zone of the account holds %s; make one, or use the account that has it", name)
}

// route53Name is a name of the API as a set has it.
func route53Name(name *string) string {
	// An asterisk is written in octal there.
	return strings.ToLower(strings.TrimSuffix(strings.ReplaceAll(aws.ToString(name), `\052`, "*"), "."))
}

// api is the client, made when it is first needed: the credential chain may ask
// the machine's metadata service.
func (a *amazon) api(ctx context.Context) (*route53.Client, error) {
	a.making.Lock()
	defer a.making.Unlock()
	if a.madeClient {
		return a.client, nil
	}
	options := []func(*awsconfig.LoadOptions) error{
		// The SDK's own kind, to which it adds what AWS_CA_BUNDLE names.
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(seldom)), awsconfig.WithDefaultRegion(route53Region),
		awsconfig.WithRetryMode(aws.RetryModeStandard), awsconfig.WithRetryMaxAttempts(5),
	}
	if a.Region != "" {
		options = append(options, awsconfig.WithRegion(a.Region))
	}
	if a.AccessKeyID != "" {
		options = append(options, awsconfig.WithCredentialsProvider(aws.CredentialsProviderFunc(a.credentials)),
			awsconfig.WithSharedConfigFiles([]string{}), awsconfig.WithSharedCredentialsFiles([]string{}))
	}
	loaded, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	a.client = route53.NewFromConfig(loaded, func(o *route53.Options) {
		o.HTTPClient = boundedClient{o.HTTPClient}
		if a.Endpoint != "" {
			o.BaseEndpoint = &a.Endpoint
		}
	})
	a.madeClient = true
	return a.client, nil
}

// boundedClient bounds the bodies of answers.
type boundedClient struct{ route53.HTTPClient }

func (b boundedClient) Do(r *http.Request) (*http.Response, error) {
	answer, err := b.HTTPClient.Do(r)
	if err == nil {
		answer.Body = bounded(answer.Body)
	}
	return answer, err
}

// credentials are the key of the file. They are read again after a minute.
func (a *amazon) credentials(context.Context) (aws.Credentials, error) {
	secret, err := readSecret(a.AccessKeySecret)
	if err != nil {
		return aws.Credentials{}, err
	}
	return aws.Credentials{
		AccessKeyID: a.AccessKeyID, SecretAccessKey: secret, Source: "file",
		CanExpire: true, Expires: time.Now().Add(time.Minute),
	}, nil
}

// route53Mends say what to do about a code.
var route53Mends = map[string]string{
	"InvalidClientTokenId":        "there is no such key: check access_key_id",
	"UnrecognizedClientException": "there is no such key: check access_key_id",
	"SignatureDoesNotMatch":       "the secret is not that of the key: check the file of access_key_secret",
	"RequestExpired":              "the clock of this machine is wrong: have it set by NTP",
	"AccessDenied":                "the key may not do that: allow route53:ListHostedZonesByName, GetChange, ListResourceRecordSets and ChangeResourceRecordSets",
	"AccessDeniedException":       "the key may not do that: allow route53:ListHostedZonesByName, GetChange, ListResourceRecordSets and ChangeResourceRecordSets",
	"NoSuchHostedZone":            "there is no such hosted zone: check zone",
	"Throttling":                  "too many calls in a short time: try again later",
	"PriorRequestNotComplete":     "another change of the zone is not done: try again later",
}

// worded says what the SDK's errors mean, in one line.
func worded(err error) error {
	var refusal smithy.APIError
	if errors.As(err, &refusal) {
		said := strings.Join(strings.Fields(refusal.ErrorMessage()), " ")
		if mend, known := route53Mends[refusal.ErrorCode()]; known {
			return fmt.Errorf("the API refused with %s (%s); %s", refusal.ErrorCode(), said, mend)
		}
		return fmt.Errorf("the API refused with %s (%s)", refusal.ErrorCode(), said)
	}
	if text := err.Error(); strings.Contains(text, "failed to refresh cached credentials") || strings.Contains(text, "get credentials") {
		return fmt.Errorf("there are no credentials; write access_key_id and access_key_secret, or give the service a role: %w", err)
	}
	return err
}
